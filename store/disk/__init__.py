"""Files of a local disk: that last through a power cut, and that processes of a machine share."""
