"""A page in the browser to move things by hand and see them: noising, schedules, sampling.

    svg, pictures                      plots and pictures as texts that the page can show
    forward, schedules, reverse,
    plane, tables                      one tab each: pure functions that return numbers and plots
    asking, answers                    what the page asks, checked, and what it is answered
    server                             the addresses                                        [explore]

The arithmetic is the package's own. Everything that the page shows comes from this machine: no script, font
or picture is fetched, and nothing is reported to anybody.
"""
