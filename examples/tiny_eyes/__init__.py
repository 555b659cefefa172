"""A Qwen3-VL of six hundred thousand weights, made from nothing in a minute: it reads two digits off small pictures."""
