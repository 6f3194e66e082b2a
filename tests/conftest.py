"""What every test gets: the profiles of hypothesis. ``pytest --hypothesis-profile=thorough``."""

from hypothesis import settings

settings.register_profile("thorough", max_examples=2_000)
