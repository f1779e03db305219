"""What all tests share."""

from hypothesis import HealthCheck, settings

# Examples have no time limit: the first one may compile kernels, and machines are shared. Their sequence is fixed, so that a
# failure seen once is seen again.
settings.register_profile(
    "minimtp", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("minimtp")
