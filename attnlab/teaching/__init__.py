"""Teaching: graded checks with diagnosis, quizzes, student copies."""
