"""How the files of data sets are read: arrays, images, IDX, pickles."""
