"""Files with one seeded damage each, and what reading them must come to."""
