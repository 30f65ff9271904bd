"""mpcc from Python: a loaded run (`mpcc.load`) and an estimator in the way of scikit-learn (`mpcc.MPCC`)."""
