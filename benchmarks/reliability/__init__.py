"""What ordinary accidents and hostile files cost, beside what they cost others: python b4m.py bench reliability"""
