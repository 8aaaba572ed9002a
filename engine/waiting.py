"""How torch's idle threads wait: asleep, not spinning. Set on import, before torch starts its threads.

A spinning thread takes a core from a neighbour: on 2 cores shared with other work, one worker of 2 threads took
201 s for a slide with OMP_WAIT_POLICY=ACTIVE and 8.3 s with PASSIVE. A user's own setting is kept.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
