"""A Django application that keeps tokens in the table of django-jwtconnect-auth, which is on no package index."""
