"""The heavy imports of every run, made with the garbage collector at rest.

It would look through half a million new objects again and again, a sixth of the time that commands need to begin. They
are there for good, so afterwards it does not count them.
"""

import gc

collects = gc.isenabled()
gc.disable()
try:
    import lit_ft.run  # noqa: F401
finally:
    gc.freeze()
    if collects:
        gc.enable()
