"""mpcc from Python: a loaded run (`mpcc.load`) and an estimator in the way of scikit-learn (`mpcc.MPCC`)."""

import logging

# The messages of a library are the caller's to show: without a handler, Python would print warnings by itself.
logging.getLogger("mpcc").addHandler(logging.NullHandler())
