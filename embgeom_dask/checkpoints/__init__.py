"""From a checkpoint to a store: find the embeddings, stream their rows, label them with the tokenizer's tokens."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from embgeom_dask import stores as model_stores
from embgeom_dask.checkpoints.labels import token_labels
from embgeom_dask.checkpoints.safetensors import Listing, Tensor, describe, list_directory, list_file
from embgeom_dask.checkpoints.tensors import Embeddings, find_embeddings
from embgeom_dask.errors import InputError
