"""The trainer and the queries mean the same by a spread of rewards."""

from __future__ import annotations

import numpy as np

from store.database import Database
from wire.spread import HAS_SPREAD, has_spread

PAIRS = [(0.3, 0.1 + 0.2), (0.0, 0.1 + 0.2 - 0.3), (0.0, 1.0), (1e6, 1e6 + 1), (1e6, 1e6 + 1e-3), (-1e30, 1e30), (0, 0)]


def test_the_queries_agree_with_the_trainer(database: Database):
    low, high = np.array(PAIRS, np.float64).T
    query = f"select {HAS_SPREAD} from (select %(low)s::float8 as low, %(high)s::float8 as high) g"
    with database.connection() as connection:
        found = [
            connection.execute(query.format(low="low", high="high").encode(), {"low": a, "high": b}).fetchone()[0]
            for a, b in PAIRS
        ]
    assert found == has_spread(low, high).tolist() == [False, False, True, True, False, True, False]
