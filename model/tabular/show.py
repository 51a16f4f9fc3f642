"""The names that the results page asks for."""

from model.tabular.serve import READS as READS
from model.tabular.serve import fetch_inputs as fetch_inputs
