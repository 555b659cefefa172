"""Files that clients upload: lines of JSON that become the tasks, or the examples, of a run."""
