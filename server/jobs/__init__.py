"""What clients report about runs over tasksets."""
