"""The engine of every evaluation: attacks of any kind, packed into buckets of one size.

`plan` says what is to be done, `tally` how far it is, `programs` what is compiled, and
`run` brings them together; `builders` takes attacks apart for the programs, `sharing`
keeps these, `clean` is what models say of clean images, `journal` keeps tallies on
disk, `telling` says what is known by now.
"""
