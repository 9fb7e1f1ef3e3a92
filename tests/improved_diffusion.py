"""The bound of improved-diffusion and guided-diffusion, in their own arithmetic: ``calc_bpd_loop`` of their
gaussian_diffusion.py, ``discretized_gaussian_log_likelihood`` and ``normal_kl`` of their losses.py."""

import numpy as np
import torch


def normal_kl(mean1, logvar1, mean2, logvar2):
    return 0.5 * (
        -1.0 + logvar2 - logvar1 + torch.exp(logvar1 - logvar2) + ((mean1 - mean2) ** 2) * torch.exp(-logvar2)
    )


def approx_standard_normal_cdf(x):
    return 0.5 * (1.0 + torch.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * torch.pow(x, 3))))


def discretized_gaussian_log_likelihood(x, means, log_scales):
    centered_x = x - means
    inv_stdv = torch.exp(-log_scales)
    cdf_plus = approx_standard_normal_cdf(inv_stdv * (centered_x + 1.0 / 255.0))
    cdf_min = approx_standard_normal_cdf(inv_stdv * (centered_x - 1.0 / 255.0))
    log_cdf_plus = torch.log(cdf_plus.clamp(min=1e-12))
    log_one_minus_cdf_min = torch.log((1.0 - cdf_min).clamp(min=1e-12))
    log_delta = torch.log((cdf_plus - cdf_min).clamp(min=1e-12))
    return torch.where(x < -0.999, log_cdf_plus, torch.where(x > 0.999, log_one_minus_cdf_min, log_delta))


class Numbers:
    """The tables that GaussianDiffusion holds."""

    def __init__(self, betas):
        self.betas = betas
        self.alphas_cumprod = np.cumprod(1.0 - betas)
        before = np.append(1.0, self.alphas_cumprod[:-1])
        self.posterior_variance = betas * (1.0 - before) / (1.0 - self.alphas_cumprod)
        self.posterior_log_variance_clipped = np.log(
            np.append(self.posterior_variance[1], self.posterior_variance[1:])
        )
        self.coef1 = betas * np.sqrt(before) / (1.0 - self.alphas_cumprod)
        self.coef2 = (1.0 - before) * np.sqrt(1.0 - betas) / (1.0 - self.alphas_cumprod)

    def log_variance(self, kind, t, like, model_var_values):
        if kind == "learned":
            return model_var_values
        if kind == "learned_range":
            frac = (model_var_values + 1) / 2
            largest, smallest = np.log(self.betas), self.posterior_log_variance_clipped
            return frac * extract(largest, t, like) + (1 - frac) * extract(smallest, t, like)
        fixed = {
            "fixed_large": np.log(np.append(self.posterior_variance[1], self.betas[1:])),
            "fixed_small": self.posterior_log_variance_clipped,
        }
        return extract(fixed[kind], t, like)


def extract(values, t, like):
    return torch.from_numpy(values)[t].reshape(-1, *[1] * (like.ndim - 1)).expand(like.shape)


def mean_flat(x):
    return x.flatten(1).mean(1)


def vb_terms_bpd(betas, x_start, x_t, t, pred_xstart, kind, model_var_values=None):
    numbers = Numbers(betas)
    coef1, coef2 = extract(numbers.coef1, t, x_t), extract(numbers.coef2, t, x_t)
    true_mean, model_mean = coef1 * x_start + coef2 * x_t, coef1 * pred_xstart + coef2 * x_t
    model_log_variance = numbers.log_variance(kind, t, x_t, model_var_values)
    true_log_variance = extract(numbers.posterior_log_variance_clipped, t, x_t)
    kl = mean_flat(normal_kl(true_mean, true_log_variance, model_mean, model_log_variance)) / np.log(2.0)
    decoder_nll = -discretized_gaussian_log_likelihood(x_start, model_mean, 0.5 * model_log_variance)
    return torch.where(t == 0, mean_flat(decoder_nll) / np.log(2.0), kl)


def prior_bpd(betas, x_start):
    alphas_cumprod = np.cumprod(1.0 - betas)
    mean, log_variance = np.sqrt(alphas_cumprod[-1]) * x_start, torch.tensor(np.log(1.0 - alphas_cumprod[-1]))
    return mean_flat(normal_kl(mean, log_variance, torch.tensor(0.0), torch.tensor(0.0))) / np.log(2.0)


def calc_bpd_loop(betas, ask, x_start, noises, kind, clip_denoised=True):
    """``ask(x_t, t)`` returns x̂_0 and the model's values on the variance; ``noises[t]`` is what was drawn."""
    signal = np.sqrt(np.cumprod(1.0 - betas))
    vb = []
    for t in range(len(betas))[::-1]:
        x_t = signal[t] * x_start + np.sqrt(1.0 - signal[t] ** 2) * noises[t]
        pred_xstart, values = ask(x_t, t)
        pred_xstart = pred_xstart.clamp(-1, 1) if clip_denoised else pred_xstart
        t_batch = torch.full((len(x_start),), t)
        vb.append(vb_terms_bpd(betas, x_start, x_t, t_batch, pred_xstart, kind, values))
    vb, prior = torch.stack(vb, 1), prior_bpd(betas, x_start)
    return {"total_bpd": vb.sum(1) + prior, "prior_bpd": prior, "vb": vb}
