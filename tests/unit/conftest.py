"""How hypothesis judges: by what a test finds, not by how fast a busy machine is."""
from hypothesis import HealthCheck, settings

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
