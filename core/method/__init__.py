"""The method: terms, losses, phases and the training loop. Start reading here."""
