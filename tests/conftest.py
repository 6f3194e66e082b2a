"""What every test gets: the profiles of hypothesis. ``pytest --hypothesis-profile=thorough``.

None of them is about time: a machine that is busy makes no test fail.
"""

from hypothesis import HealthCheck, settings

settings.register_profile("usual", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("usual"), max_examples=2_000)
settings.load_profile("usual")
