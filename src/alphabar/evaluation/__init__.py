"""How good samples are: scores with intervals, beside the same scores of real data; how probable data are."""

from alphabar.evaluation.bound import Bound, bits_per_dimension
from alphabar.evaluation.classifier import Classifier, fit_classifier
from alphabar.evaluation.distances import Moments, frechet_distance, kernel_distance
from alphabar.evaluation.drawing import draw
from alphabar.evaluation.evaluating import (
    Copies,
    Evaluation,
    Nearest,
    Scored,
    evaluate,
    features_of,
    find_copies,
    nearest_images,
    scores_of,
    split,
)
from alphabar.evaluation.features import FEATURES, Features, features_by_name
from alphabar.evaluation.flow import FlowBits, flow_bits_per_dimension
from alphabar.evaluation.intervals import Interval
from alphabar.evaluation.likelihood import joined
from alphabar.evaluation.score import Score, score

__all__ = [
    "FEATURES",
    "Bound",
    "Classifier",
    "Copies",
    "Evaluation",
    "Features",
    "FlowBits",
    "Interval",
    "Moments",
    "Nearest",
    "Score",
    "Scored",
    "bits_per_dimension",
    "draw",
    "evaluate",
    "features_by_name",
    "features_of",
    "find_copies",
    "fit_classifier",
    "flow_bits_per_dimension",
    "frechet_distance",
    "joined",
    "kernel_distance",
    "nearest_images",
    "score",
    "scores_of",
    "split",
]
