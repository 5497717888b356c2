"""The load tester, `lipsync bench stream`: live sessions against any deployment, timed by the tester's own clock."""
