"""An environment whose reward can be gamed."""
