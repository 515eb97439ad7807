"""Data sets: their sources, options, preprocessing and augmentations."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from . import preprocess as preprocess
    from .augment.image import Crop as Crop
    from .augment.image import Flip as Flip
    from .augment.image import Jitter as Jitter
    from .augment.image import Noise as Noise
    from .augment.randaugment import Cutout as Cutout
    from .augment.randaugment import RandAugment as RandAugment
    from .augment.text import WordDeletion as WordDeletion
    from .augment.text import WordDropout as WordDropout
    from .augment.text import WordReplacement as WordReplacement
    from .augment.text import WordSwap as WordSwap
    from .augment.views import ColorJitter as ColorJitter
    from .augment.views import GaussianBlur as GaussianBlur
    from .augment.views import RandomGrayscale as RandomGrayscale
    from .augment.views import RandomResizedCrop as RandomResizedCrop
    from .augment.views import Solarize as Solarize
    from .dataset import Data as Data
    from .dataset import Dataset as Dataset
    from .dataset import Table as Table
    from .episodes import EpisodeSampler as EpisodeSampler
    from .episodes import FixedShape as FixedShape
    from .episodes import VariableShape as VariableShape
    from .episodes import split_classes as split_classes
    from .episodic import Episodes as Episodes
    from .preparation import prepare as prepare
    from .preprocess import Preprocess as Preprocess
    from .sources.arrays import Arrays as Arrays
    from .sources.catalog import available as available
    from .sources.conll import CoNLL as CoNLL
    from .sources.csv_table import CSV as CSV
    from .sources.digits import Digits as Digits
    from .sources.frame import Frame as Frame
    from .sources.hf_dataset import HFDataset as HFDataset
    from .sources.image_folder import ImageFolder as ImageFolder
    from .sources.image_list import ImageList as ImageList
    from .sources.image_text import ImageText as ImageText
    from .sources.json_table import JSON as JSON
    from .sources.multi_mnist import MultiMNIST as MultiMNIST
    from .sources.parquet import Parquet as Parquet
    from .sources.pen_digits import PenDigits as PenDigits
    from .sources.rendered_digits import RenderedDigits as RenderedDigits
    from .sources.squad import SQuAD as SQuAD
    from .sources.svmlight import SVMLight as SVMLight
    from .sources.tasks import Tasks as Tasks
    from .sources.text import Text as Text
    from .sources.text_lines import Lines as Lines
    from .sources.tfds import TFDS as TFDS
    from .sources.torch_dataset import TorchDataset as TorchDataset
    from .sources.webdataset import WebDataset as WebDataset
    from .streams import sample as sample
    from .tokenizer import Tokenizer as Tokenizer

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
