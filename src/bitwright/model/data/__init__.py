"""Evaluation data of the trained models: where it lies, how it is read, how it becomes batches."""

from bitwright.model.data.location import data_folder as data_folder
from bitwright.model.data.samples import Reader as Reader
from bitwright.model.data.samples import Samples as Samples
