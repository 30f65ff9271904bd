"""What a user is told: event files, progress, symptoms, summaries."""
