"""Gemini's generateContent, as its client and the SDK's Gemini agent send it: for other vendors' models alone."""
