"""SkyRL's types on Python 3.11, where pydantic takes no `typing.TypedDict`: that of typing_extensions instead."""

import typing

import typing_extensions

typing.TypedDict = typing_extensions.TypedDict
