"""unimoe inside of other programs. Nothing here is imported by the package itself, so each program stays optional."""
