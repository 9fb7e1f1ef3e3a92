"""What random configurations of the drop-in schedulers are drawn from: label → values, the default first.

A value that is a mapping is merged into the options; a function is called with the random numbers and the
options so far. Options are those of the peer's constructor, of its ``set_timesteps`` and of its ``step``;
``begin`` is the share of the run that is left out, as from an image.
"""

STEPS = (6, 1, 2, 3, 4, 5, 7, 8, 10, 13, 14, 15, 16, 20, 29)
FEW = (5, 1, 2, 3, 4, 6, 8)


def whole(draw, options):
    """Timesteps of one's own, whole and descending."""
    total = options.get("num_train_timesteps", 1000)
    return {"timesteps": sorted(draw.sample(range(total), draw.randint(1, 9)), reverse=True)}


def real(draw, options):
    """The same, which may lie between whole numbers."""
    total = options.get("num_train_timesteps", 1000)
    chosen = sorted((draw.uniform(0, total - 1) for _ in range(draw.randint(2, 9))), reverse=True)
    return {"timesteps": [round(t, 2) for t in chosen]}


def to_zero(draw, options):
    """Levels σ of one's own, and the 0 where they end."""
    inner = sorted((10 ** draw.uniform(-2, 1) for _ in range(draw.randint(1, 8))), reverse=True)
    return {"sigmas": [*(round(sigma, 4) for sigma in inner), 0.0]}


def ramp(draw, options):
    """Places of one's own between EDM's largest and smallest σ, from 0 to 1."""
    inner = sorted(draw.uniform(0.01, 0.99) for _ in range(draw.randint(1, 8)))
    return {"sigmas": [draw.choice([0.0, 0.005]), *(round(place, 3) for place in inner)]}


def flow_sigmas(draw, options):
    """Levels σ of flow matching of one's own, in (0, 1]."""
    inner = sorted((draw.uniform(0.02, 0.99) for _ in range(draw.randint(1, 8))), reverse=True)
    return {"sigmas": [draw.choice([1.0, 0.97]), *(round(sigma, 4) for sigma in inner if sigma < 0.96)]}


def flow_timesteps(draw, options):
    """Timesteps of flow matching of one's own, without or with σ."""
    sigmas = flow_sigmas(draw, options)["sigmas"]
    total = options.get("num_train_timesteps", 1000)
    timesteps = {"timesteps": [round(total * sigma ** draw.choice([1, 1.3]), 2) for sigma in sigmas]}
    return draw.choice([timesteps, {**timesteps, "sigmas": sigmas}])


def every(draw, options):
    """A visit of every t."""
    if options.get("trained_betas") is None:
        options["num_train_timesteps"] = 24
    return {"num_inference_steps": options["num_train_timesteps"]}


def counts(values=STEPS):
    return (*({"num_inference_steps": n} for n in values), every)


def one_of(*names):
    """The options of which one at most is set."""
    return ({}, *({name: True} for name in names))


SCHEDULE = {
    "num_train_timesteps": (1000, 1000, 100),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "beta": (
        {},
        {"beta_start": 0.00085, "beta_end": 0.012},
        {"beta_start": 0.0015, "beta_end": 0.03},
        {"num_train_timesteps": 24, "trained_betas": [round(0.001 + 0.0006 * i * i, 4) for i in range(24)]},
    ),
}
SPACING = {"timestep_spacing": ("leading", "trailing", "linspace"), "steps_offset": (0, 1)}
PREDICTION = {"prediction_type": ("epsilon", "sample", "v_prediction")}
ZERO_SNR = {"rescale_betas_zero_snr": (False, True)}
CLIPPING = {
    "clip": (
        {},
        {"clip_sample": False},
        {"clip_sample": True, "clip_sample_range": 0.7},
    )
}
THRESHOLDING = {
    "threshold": (
        {},
        {"thresholding": True},
        {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.5},
    )
}
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
FLOW = (
    {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
    {"use_flow_sigmas": True, "flow_shift": 0.6},
)
DYNAMIC = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": True}
BEGIN = {"begin": (0, 0, 0.3, 0.8)}
CHURN = {
    "s_churn": (0.0, 0.5, 3.0, 100.0),
    "s_tmin": (0.0, 0.3),
    "s_tmax": (float("inf"), 20.0),
    "s_noise": (1.0, 1.01),
}
VE = {**SCHEDULE, **SPACING, **PREDICTION, "sigmas": one_of(*SIGMAS)}
CONSISTENCY = {
    **SCHEDULE,
    **PREDICTION,
    **CLIPPING,
    **THRESHOLDING,
    **ZERO_SNR,
    **BEGIN,
    "original_inference_steps": (50, 40, 100),
    "set_alpha_to_one": (True, False),
    "timestep_scaling": (10.0, 3.0),
    "steps": (*counts(FEW), whole),
    "strength": (1.0, 0.6),
}
OPTIONS = {
    "DDPM": {
        **SCHEDULE,
        "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"),
        **SPACING,
        **PREDICTION,
        **CLIPPING,
        **THRESHOLDING,
        **ZERO_SNR,
        **BEGIN,
        "variance_type": (
            "fixed_small",
            "fixed_small_log",
            "fixed_large",
            "fixed_large_log",
            "learned",
            "learned_range",
        ),
        "steps": (*counts(), whole),
    },
    "DDIM": {
        **SCHEDULE,
        **SPACING,
        **PREDICTION,
        **CLIPPING,
        **THRESHOLDING,
        **ZERO_SNR,
        **BEGIN,
        "set_alpha_to_one": (True, False),
        "eta": (0.0, 0.4, 1.0),
        "use_clipped_model_output": (False, True),
        "steps": counts(),
    },
    "DDIMInverse": {
        **SCHEDULE,
        "timestep_spacing": ("leading", "trailing"),
        "steps_offset": (0, 1),
        **PREDICTION,
        **CLIPPING,
        **ZERO_SNR,
        "set_alpha_to_one": (True, False),
        "steps": counts(),
    },
    "PNDM": {
        **SCHEDULE,
        **SPACING,
        **PREDICTION,
        "skip_prk_steps": (False, True),
        "set_alpha_to_one": (False, True),
        "steps": counts(),
    },
    "DPMSolverMultistep": {
        **SCHEDULE,
        **SPACING,
        **PREDICTION,
        **THRESHOLDING,
        **ZERO_SNR,
        **BEGIN,
        "solver_order": (2, 1, 3),
        "algorithm": (
            {},
            {"algorithm_type": "sde-dpmsolver++"},
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
            {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
            {"final_sigmas_type": "sigma_min"},
        ),
        "solver_type": ("midpoint", "heun"),
        "lower_order_final": (True, False),
        "euler_at_final": (False, True),
        "lambda_min_clipped": (-float("inf"), -3.0),
        "steps": (*counts(), whole),
        "sigmas": (*one_of(*SIGMAS, "use_lu_lambdas"), *FLOW),
        "dynamic": ({}, {}, {}, {**DYNAMIC, "mu": 0.6}, {**DYNAMIC, "mu": 1.2, "time_shift_type": "linear"}),
    },
    "DPMSolverSinglestep": {
        **SCHEDULE,
        **PREDICTION,
        **THRESHOLDING,
        **BEGIN,
        "solver_order": (2, 1, 3),
        "algorithm": (
            {},
            {"algorithm_type": "sde-dpmsolver++"},
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
            {"final_sigmas_type": "sigma_min"},
        ),
        "solver_type": ("midpoint", "heun"),
        "lower_order_final": (False, True),
        "lambda_min_clipped": (-float("inf"), -3.0),
        "steps": (*counts(), whole),
        "sigmas": (*one_of(*SIGMAS), *FLOW),
    },
    "UniPCMultistep": {
        **SCHEDULE,
        **SPACING,
        **PREDICTION,
        **THRESHOLDING,
        **ZERO_SNR,
        **BEGIN,
        "solver_order": (2, 1, 3),
        "predict": (
            {},
            {"predict_x0": False, "final_sigmas_type": "sigma_min"},
            {"final_sigmas_type": "sigma_min"},
        ),
        "solver_type": ("bh2", "bh1"),
        "lower_order_final": (True, False),
        "disable_corrector": ([], [0], [0, 2]),
        "steps": counts(),
        "sigmas": (
            *one_of(*SIGMAS),
            *FLOW,
            lambda draw, options: {**FLOW[1], **flow_sigmas(draw, options)},
            {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 20.0},
            {**FLOW[0], "use_karras_sigmas": True},
            {**FLOW[0], "shift_terminal": 0.1},
        ),
        "dynamic": ({}, {}, {}, {**DYNAMIC, "mu": 0.6}, {**DYNAMIC, "mu": 1.2, "time_shift_type": "linear"}),
    },
    "DEISMultistep": {
        **SCHEDULE,
        **SPACING,
        **PREDICTION,
        **THRESHOLDING,
        **BEGIN,
        "solver_order": (2, 1, 3),
        "lower_order_final": (True, False),
        "steps": counts(),
        "sigmas": (*one_of(*SIGMAS), *FLOW),
    },
    "EulerDiscrete": {
        **VE,
        "prediction_type": ("epsilon", "sample", "v_prediction", "original_sample"),
        **ZERO_SNR,
        **CHURN,
        **BEGIN,
        "interpolation_type": ("linear", "log_linear"),
        "timestep_type": ("discrete", "discrete", "continuous"),
        "final_sigmas_type": ("zero", "sigma_min"),
        "ends": ({}, {"sigma_min": 0.1, "sigma_max": 20.0}),
        "steps": (*counts(), real, to_zero),
    },
    "EulerAncestralDiscrete": {**VE, **ZERO_SNR, **BEGIN, "sigmas": ({},), "steps": counts()},
    "HeunDiscrete": {
        **VE,
        **BEGIN,
        "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "exp"),
        **CLIPPING,
        "steps": (*counts(), whole),
    },
    "LMSDiscrete": {**VE, **BEGIN, "order": (4, 1, 2, 3), "steps": counts(FEW)[:-1]},
    "KDPM2Discrete": {**VE, **BEGIN, "steps": counts()},
    "KDPM2AncestralDiscrete": {**VE, **BEGIN, "steps": counts()},
    "FlowMatchEulerDiscrete": {
        "num_train_timesteps": (1000, 1000, 100),
        "shift": (1.0, 3.0, 0.6),
        "dynamic": (
            {},
            {"use_dynamic_shifting": True, "mu": 0.6},
            {"use_dynamic_shifting": True, "mu": 1.2, "time_shift_type": "linear"},
        ),
        "shift_terminal": (None, 0.1),
        "invert_sigmas": (False, False, False, True),
        "stochastic_sampling": (False, True),
        "spacing": one_of(*SIGMAS),
        "steps": (*counts(), flow_sigmas, flow_timesteps),
        **BEGIN,
    },
    "FlowMatchHeunDiscrete": {
        "num_train_timesteps": (1000, 1000, 100),
        "shift": (1.0, 3.0, 0.6),
        "steps": counts(),
        **CHURN,
        **BEGIN,
    },
    "EDMEuler": {
        "sigma_ends": ({}, {"sigma_min": 0.01, "sigma_max": 40.0}),
        "sigma_data": (0.5, 1.0),
        "sigma_schedule": ("karras", "exponential"),
        "prediction_type": ("epsilon", "v_prediction"),
        "rho": (7.0, 3.0),
        "final_sigmas_type": ("zero", "sigma_min"),
        "steps": (*counts(), ramp),
        **CHURN,
        **BEGIN,
    },
    "EDMDPMSolverMultistep": {
        "sigma_ends": ({}, {"sigma_min": 0.01, "sigma_max": 40.0}),
        "sigma_data": (0.5, 1.0),
        "sigma_schedule": ("karras", "exponential"),
        "prediction_type": ("epsilon", "v_prediction"),
        "rho": (7.0, 3.0),
        "solver_order": (2, 1, 3),
        **THRESHOLDING,
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
        "final_sigmas_type": ("zero", "sigma_min"),
        "solver_type": ("midpoint", "heun"),
        "lower_order_final": (True, False),
        "euler_at_final": (False, True),
        "steps": counts(),
        **BEGIN,
    },
    "LCM": CONSISTENCY,
    "TCD": {**CONSISTENCY, "eta": (0.3, 0.0, 1.0)},
    "IPNDM": {"num_train_timesteps": (1000, 100), "steps": counts()},
}
