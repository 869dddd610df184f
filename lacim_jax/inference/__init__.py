"""Latents and labels of images from any domain, by search through the trained model."""

from lacim_jax.inference.latent_inference import Inference, infer, infer_along
from lacim_jax.inference.memory import search_memory, search_within
from lacim_jax.inference.prediction import Prediction, predict, predict_from
from lacim_jax.inference.search import (
    Regulariser,
    Search,
    SearchState,
    begin_search,
    mixture_prior,
    squared_norm,
    step_search,
)
from lacim_jax.inference.selection import ChosenSearch, choose_search

__all__ = [
    "predict",
    "Prediction",
    "infer",
    "infer_along",
    "Inference",
    "predict_from",
    "Search",
    "Regulariser",
    "mixture_prior",
    "squared_norm",
    "begin_search",
    "step_search",
    "SearchState",
    "search_memory",
    "search_within",
    "choose_search",
    "ChosenSearch",
]
