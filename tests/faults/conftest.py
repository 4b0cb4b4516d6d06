"""Installations for the rows of the matrix that only a whole one can show."""

from tests.e2e.conftest import disk as disk
from tests.e2e.conftest import make_world as make_world
