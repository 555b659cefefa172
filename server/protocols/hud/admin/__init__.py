"""`/v2/admin`: what operators do over HTTP. One router a noun."""
