"""How the files of data sets are read: images, value ranges, IDX, pickles."""
