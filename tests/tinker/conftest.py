from tests.e2e.conftest import box, own_box, tiny_base

__all__ = ["box", "own_box", "tiny_base"]
