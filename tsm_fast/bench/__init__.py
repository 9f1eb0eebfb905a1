"""What this package is measured against, and how.

`cases` says what a row is; `works`, what is called in it and how its result is judged; `peers`, what people use today;
`shapes`, on what; `clock`, `memory` and `limits` measure; `rows` makes a run of it, and `tables`, `page` and `compare`
show one. `timings` is the table of the demo.
"""
