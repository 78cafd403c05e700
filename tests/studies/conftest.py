"""The tables of a synthetic zoo, that nobody changes."""

import pandas as pd
import pytest
import synthetic_zoo


@pytest.fixture(scope="session")
def zoo() -> dict[str, pd.DataFrame]:
    """Stacked tables whose answers are known, see `synthetic_zoo.py`."""
    return synthetic_zoo.tables()
