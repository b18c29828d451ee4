"""Settings for all tests."""

import os

# Before torch is imported, here and in the processes that tests start: on a busy machine threads that wait for each
# other make small operations many times slower, and no test is about threads.
os.environ["OMP_NUM_THREADS"] = "1"
