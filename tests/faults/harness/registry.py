# A scenario that takes longer (seconds) is ended, and its row is broken.
_LIMIT_SECONDS: Mapping[Profile, float] = {"short": 300.0, "long": 3600.0}
