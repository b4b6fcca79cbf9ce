"""What the commands of the command line do. What is heavy to import is imported by the command that needs it.

options        options that several commands share, and the run that they name
option_values  what options hold that Typer does not read by itself
train          demo and train
images         explain and score
evaluate       evaluate
reproduce      reproduce
share          share
printed        what came of a command, on stdout
"""
