"""One paper, one file; `detector.py` is the skeleton they share and `catalog.py` lists what can be built."""
