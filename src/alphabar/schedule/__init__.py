"""What ᾱ_t is: families of schedules, levels between the integers, and which t a sampler visits."""

from alphabar.schedule.configs import CONFIG_READERS, OWN_KEYS
from alphabar.schedule.families import ScheduleWarning, noise_power
from alphabar.schedule.levels import CLEAN, Level, levels_at, log_alpha_bar_between, t_of_log_snr
from alphabar.schedule.noise_schedule import FAMILIES, NoiseSchedule
from alphabar.schedule.spacing import SPACINGS, Spacing, checked_spacing, entered_at, karras, stops, visited

__all__ = [
    "CLEAN",
    "CONFIG_READERS",
    "FAMILIES",
    "OWN_KEYS",
    "SPACINGS",
    "Level",
    "NoiseSchedule",
    "ScheduleWarning",
    "Spacing",
    "checked_spacing",
    "entered_at",
    "karras",
    "levels_at",
    "log_alpha_bar_between",
    "noise_power",
    "stops",
    "t_of_log_snr",
    "visited",
]
