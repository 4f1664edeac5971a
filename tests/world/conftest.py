from hypothesis import settings

settings.register_profile("world", deadline=None)  # a busy machine is not a failure
settings.load_profile("world")
