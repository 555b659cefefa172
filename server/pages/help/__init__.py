"""The documentation, in the look of the pages: what help links lead to. It needs no network and no other site."""
