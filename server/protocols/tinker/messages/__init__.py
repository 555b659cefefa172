"""The protobuf messages of the Tinker SDK, generated from `tinker.proto`, which says how."""
