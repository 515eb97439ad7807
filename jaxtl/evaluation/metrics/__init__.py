"""Metrics of predictions, which values of them are better, and their intervals."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .answers import AnswerExactMatch as AnswerExactMatch
    from .answers import AnswerF1 as AnswerF1
    from .base import Metric as Metric
    from .base import Predictions as Predictions
    from .base import UndefinedMetric as UndefinedMetric
    from .base import note as note
    from .bootstrap import Interval as Interval
    from .bootstrap import bootstrap_intervals as bootstrap_intervals
    from .class_predictions import Accuracy as Accuracy
    from .class_predictions import BalancedAccuracy as BalancedAccuracy
    from .class_predictions import CohenKappa as CohenKappa
    from .class_predictions import MatthewsCorrelation as MatthewsCorrelation
    from .class_predictions import MeanRankError as MeanRankError
    from .class_predictions import TopKAccuracy as TopKAccuracy
    from .direction import CRITERIA as CRITERIA
    from .direction import beats as beats
    from .direction import delta_m as delta_m
    from .direction import higher_is_better as higher_is_better
    from .direction import is_finite_number as is_finite_number
    from .direction import monitored_value as monitored_value
    from .direction import nearest_metric as nearest_metric
    from .direction import score as score
    from .entities import EntityF1 as EntityF1
    from .entities import EntityPrecision as EntityPrecision
    from .entities import EntityRecall as EntityRecall
    from .entities import entity_report as entity_report
    from .errors_and_correlation import R2 as R2
    from .errors_and_correlation import MeanAbsoluteError as MeanAbsoluteError
    from .errors_and_correlation import MeanSquaredError as MeanSquaredError
    from .errors_and_correlation import PearsonCorrelation as PearsonCorrelation
    from .errors_and_correlation import SpearmanCorrelation as SpearmanCorrelation
    from .f_score import FBeta as FBeta
    from .f_score import Precision as Precision
    from .f_score import Recall as Recall
    from .function import Function as Function
    from .output_metrics import CALIBRATION_BINS as CALIBRATION_BINS
    from .output_metrics import accuracy as accuracy
    from .output_metrics import balanced_accuracy as balanced_accuracy
    from .output_metrics import brier as brier
    from .output_metrics import confidence_bins as confidence_bins
    from .output_metrics import confusion as confusion
    from .output_metrics import ece as ece
    from .output_metrics import exact_match as exact_match
    from .output_metrics import label_accuracy as label_accuracy
    from .output_metrics import label_confusion as label_confusion
    from .output_metrics import label_macro_f1 as label_macro_f1
    from .output_metrics import label_nll as label_nll
    from .output_metrics import macro_f1 as macro_f1
    from .output_metrics import mae as mae
    from .output_metrics import mse as mse
    from .output_metrics import nll as nll
    from .output_metrics import r2 as r2
    from .probability import BrierScore as BrierScore
    from .probability import CalibrationError as CalibrationError
    from .probability import LogLoss as LogLoss
    from .ranking import AUROC as AUROC
    from .ranking import AveragePrecision as AveragePrecision
    from .representation import KNNAccuracy as KNNAccuracy
    from .representation import LiDAR as LiDAR
    from .representation import LinearProbeAccuracy as LinearProbeAccuracy
    from .representation import RankMe as RankMe
    from .representation import knn_predictions as knn_predictions
    from .representation import lidar as lidar
    from .representation import rankme as rankme
    from .retrieval import recalls as recalls
    from .task_metrics import METRICS as METRICS
    from .task_metrics import compute as compute
    from .task_metrics import main_metric as main_metric
    from .task_metrics import names as names
    from .token_metrics import perplexity as perplexity
    from .token_metrics import token_accuracy as token_accuracy
    from .token_metrics import token_nll as token_nll

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
