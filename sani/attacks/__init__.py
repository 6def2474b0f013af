"""What an attacker tries on a sanitised model, one file each; `sani.audit` finds them by name."""
