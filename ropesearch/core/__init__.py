"""What every other room builds on: arguments, files, the machine, frequencies, base sets. Needs only numpy."""
