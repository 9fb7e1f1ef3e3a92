"""How good samples are: distances beside the same distances of real data."""

from alphabar.evaluation.distances import Classifier, Score, fit_classifier, frechet_distance, score

__all__ = ["Classifier", "Score", "fit_classifier", "frechet_distance", "score"]
