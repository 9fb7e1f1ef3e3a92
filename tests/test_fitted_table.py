"""Plans and fitted tables as JSON: what is written is read back to the last bit, and nothing else is read."""

import json
import math

import pytest
from cases import check_error
from hypothesis import given
from hypothesis import strategies as st

from alphabar import DDPM, DPMSolver, FittedTable, NoiseSchedule, Plan, Row
from alphabar.errors import CheckpointError, ConfigError, NoAnswerError, TimestepError
from alphabar.samplers import SOLVERS, Distance

COSINE = NoiseSchedule.cosine()
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def plans(draw):
    """Plans of up to five rows with any finite numbers."""
    t = draw(st.lists(st.floats(0, 999) | st.integers(0, 999), min_size=1, max_size=5))
    pairs = st.tuples(numbers, numbers)
    return Plan(
        tuple(
            Row(
                *(at, to, draw(numbers)),
                tuple(draw(st.lists(numbers, max_size=i + 1))),
                draw(numbers),
                draw(st.none() | pairs),
                draw(pairs),
            )
            for i, (at, to) in enumerate(zip(t, [*t[1:], -1], strict=True))
        )
    )


def through_text(value):
    return json.loads(json.dumps(value, allow_nan=False))


@given(plans())
def test_a_plan_of_any_numbers_is_read_back_to_the_last_bit(plan):
    again = Plan.from_json(through_text(plan.to_json()))
    assert again == plan
    assert [type(row.t) for row in again.rows] == [type(row.t) for row in plan.rows]


@pytest.mark.parametrize("solver", [*SOLVERS, "DDPM"])
def test_every_samplers_plan_is_read_back(solver):
    plan = (DDPM(5, variance="learned") if solver == "DDPM" else SOLVERS[solver](5, "karras")).plan(COSINE)
    assert Plan.from_json(through_text(plan.to_json())) == plan


ROW = {"t": 9, "s": -1, "x": 0.5, "history": [0.5]}
BAD_ROWS = {
    "no list": ({"0": ROW}, ConfigError, "rows is a dict"),
    "a text": ("rows", ConfigError, "rows is a str"),
    "none": ([], ConfigError, "at least one row"),
    "a row that is a list": ([[9, -1]], ConfigError, "row 0 has list"),
    "a name that is missing": ([{"t": 9, "s": -1, "x": 0.5}], ConfigError, "row 0", "history"),
    "a name that is not known": ([ROW | {"colour": 1}], ConfigError, "colour"),
    "a text for a number": ([ROW | {"t": "9"}], ConfigError, "t = 9", "a finite number"),
    "true for a number": ([ROW | {"x": True}], ConfigError, "x = True"),
    "NaN": ([ROW | {"x": math.nan}], ConfigError, "x = nan"),
    "infinity": ([ROW | {"history": [math.inf]}], ConfigError, "history = [inf]"),
    "more than float64 has": ([ROW | {"s": -(10**400)}], ConfigError, "s = -1000"),
    "a number for a list": ([ROW | {"history": 0.5}], ConfigError, "history = 0.5", "a list of finite"),
    "one number for two": ([ROW | {"keeps": [1.0]}], ConfigError, "two finite numbers"),
    "null": ([ROW | {"z": None}], ConfigError, "z = None"),
    "rows that do not join": ([ROW, ROW], ConfigError, "must join"),
    "too long a memory": ([ROW | {"history": [0.5, 0.5]}], ConfigError, "only 1"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_json_that_is_no_plan_is_named(kind):
    rows, error, *fragments = BAD_ROWS[kind]
    check_error(lambda: Plan.from_json(rows), error, *fragments)


def table(schedule=COSINE, **fields):
    given = {
        "start": "DPM-Solver++ 2M, trailing",
        "before": Distance(0.5, 1 / 3),
        "after": Distance(0.1, 0.2),
    }
    given |= {"about": {"network": "cafe", "free": ["levels"], "seconds": None}}
    return FittedTable(DPMSolver(4).plan(schedule), schedule, **given | fields)


SCHEDULES = {
    "a family": COSINE,
    "zero terminal SNR": NoiseSchedule.linear().zero_terminal_snr(),
    "a formula": NoiseSchedule.rectified_flow(100, shift=3.0),
    "numbers": NoiseSchedule.from_beta([0.1, 0.2, 0.3, 0.4, 0.5]),
    "respaced": COSINE.respaced(range(0, 1000, 50)),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_table_is_read_back_to_the_last_bit(kind, tmp_path):
    made = table(SCHEDULES[kind])
    path = made.save(tmp_path / "deep" / "4.json")
    assert FittedTable.load(path) == made
    assert FittedTable.load(str(path)).plan(SCHEDULES[kind]) == made.table
    first = path.read_bytes()
    FittedTable.load(path).save(path)
    assert path.read_bytes() == first


def replaced(content, *keys, value):
    """The content with one entry changed, or without it."""
    *outer, last = keys
    inside = content
    for key in outer:
        inside = inside[key]
    if value is ...:
        del inside[last]
    else:
        inside[last] = value
    return content


DAMAGE = {
    "another maker": (("made_by",), "somebody", "no fitted table"),
    "no maker": (("made_by",), ..., "no fitted table"),
    "no rows": (("rows",), ..., "no 'rows'"),
    "rows that are a text": (("rows",), "many", "rows is a str"),
    "a row too few": (("evaluations",), 5, "4 rows for 5"),
    "true evaluations": (("evaluations",), True, "evaluations is True"),
    "a coefficient of NaN": (("rows", 1, "x"), math.nan, "x = nan"),
    "a row that adds noise": (("rows", 1, "z"), 0.5, "no noise"),
    "a t beyond T": (("rows", 0, "t"), 1000, "t = 1000"),
    "an end in noise": (("rows", 3, "s"), 0, "clean data"),
    "no schedule": (("schedule",), ..., "no 'schedule'"),
    "a schedule that is a list": (("schedule",), [1], "cannot be read"),
    "a schedule of texts": (("schedule", "num_train_timesteps"), "many", "cannot be read"),
    "a schedule without end": (("schedule", "num_train_timesteps"), 10**9, "cannot be read"),
    "an unknown schedule": (("schedule", "beta_schedule"), "colour", "colour"),
    "a start that is a number": (("start",), 3, "start must be a text"),
    "about as a text": (("about",), "me", "about an object"),
    "no error": (("after",), ..., "no 'after'"),
    "an error without rms": (("after", "rms"), ..., "no 'rms'"),
    "a negative error": (("before", "rms"), -1.0, "at least 0"),
    "an infinite error": (("before", "median"), math.inf, "finite"),
    "an error as a list": (("before",), [1, 2], "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_file_that_is_no_table_is_named_with_what_is_wrong_in_it(kind, tmp_path):
    keys, value, fragment = DAMAGE[kind]
    path = table().save(tmp_path / "4.json")
    path.write_text(json.dumps(replaced(json.loads(path.read_text()), *keys, value=value)))
    check_error(lambda: FittedTable.load(path), CheckpointError, "4.json", fragment)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1e999", "[" * 100_000, '{"made_by": "alphabar fit"}', "\0"]
)
def test_text_that_is_no_object_of_ours_is_named(text, tmp_path):
    (tmp_path / "5.json").write_text(text)
    check_error(lambda: FittedTable.load(tmp_path / "5.json"), CheckpointError, "5.json")


def test_places_that_cannot_be_read_or_written_are_named(tmp_path):
    check_error(lambda: FittedTable.load(tmp_path / "none.json"), CheckpointError, "none.json")
    (tmp_path / "file").write_text("mine")
    check_error(lambda: table().save(tmp_path / "file" / "5.json"), CheckpointError, "cannot be written")
    check_error(lambda: table().save(tmp_path), CheckpointError, "cannot be written")
    for about in ({"network": object()}, {"seconds": math.inf}):
        check_error(
            lambda about=about: table(about=about).save(tmp_path / "5.json"), ConfigError, "about holds"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_rows_that_are_no_table_to_keep_are_refused():
    for plan, error, fragment in (
        (DDPM(4).plan(COSINE), ConfigError, "no noise"),
        (Plan((Row(9, 5, 0.5, (0.5,)),)), ConfigError, "clean data"),
        (Plan((Row(1000, -1, 0.5, (0.5,)),)), TimestepError, "t = 1000"),
        (Plan((Row(-0.5, -1, 0.5, (0.5,)),)), TimestepError, "t = -0.5"),
    ):
        make = lambda plan=plan: FittedTable(plan, COSINE, "", Distance(1, 1), Distance(1, 1))  # noqa: E731
        check_error(make, error, fragment)


def test_a_table_is_a_sampler_of_its_own_schedule():
    made, plan = table(), DPMSolver(4).plan(COSINE)
    assert made.plan(COSINE) == made.plan(NoiseSchedule.from_config(COSINE.to_config()), 999) == plan
    rounded = NoiseSchedule.from_beta(COSINE.beta.float().double())
    assert made.plan(rounded) == plan
    check_error(lambda: made.plan(NoiseSchedule.linear()), NoAnswerError, "fitted on", "fit one again")
    expected = DPMSolver(order=3, rule="exact", spacing=[600, *(t for t in plan.timesteps if t < 600)]).plan(
        COSINE
    )
    assert made.plan(COSINE, 600) == expected
